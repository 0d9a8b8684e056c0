# Sourced by the scripts: makes .venv from a pinned, hashed requirements file, once per change.
# Usage: bootstrap FILE (requirements/cpu.txt, gpu.txt or dev.txt)
bootstrap() {
  local file="$1" python="${PYTHON:-python3}" stamp
  # Images of Python set it. Each process would compile torch and transformers anew: half of its
  # start, and a system is several processes.
  unset PYTHONDONTWRITEBYTECODE
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || exit 1
  "$python" - <<'PY' || exit 1
import sys
if sys.version_info < (3, 11):
    sys.exit(f"tidelens needs Python 3.11 or newer, this is {sys.version.split()[0]}; set PYTHON")
PY
  stamp=".venv/.installed-$(sha256sum "$file" | cut -c1-16)"
  if [ ! -e "$stamp" ]; then
    echo "setting up .venv from $file (about half a minute, 6 GB)" >&2
    [ -x .venv/bin/python ] || "$python" -m venv .venv
    # uv by pip, then everything by uv: pip alone takes many minutes on this set.
    .venv/bin/python -m pip install -q --disable-pip-version-check uv==0.13.9
    .venv/bin/python -m uv pip install -q --python .venv/bin/python --require-hashes -r "$file"
    .venv/bin/python -m uv pip install -q --python .venv/bin/python --no-deps \
      --no-build-isolation -e .
    rm -f .venv/.installed-*
    touch "$stamp"
  fi
}
