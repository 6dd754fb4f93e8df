"""Score generated clouds: python evaluate.py generated=FILE reference=FILE key=value ... (configs/evaluate.yaml)."""

from mfcdm.cli import evaluate

if __name__ == "__main__":
    evaluate()
