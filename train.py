"""Train a network: python train.py experiment=NAME key=value ... (see configs/train.yaml)."""

from mfcdm.cli import train

if __name__ == "__main__":
    train()
