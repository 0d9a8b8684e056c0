"""What every process of Tidelens needs: logs, signals, threads and memory."""
