"""What `make gpu-check` compares on a GPU: plain functions that need neither pytest nor anything of the tests' venv."""
