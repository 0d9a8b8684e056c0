"""Mode `top`: standing queries whose lists stay exact while batches are applied."""
