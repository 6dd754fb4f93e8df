"""Draw clouds from a checkpoint: python sample.py checkpoint=FOLDER key=value ... (see configs/sample.yaml)."""

from mfcdm.cli import sample

if __name__ == "__main__":
    sample()
