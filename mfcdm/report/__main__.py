"""python -m mfcdm.report RUN: write report.html of a training run again."""

from mfcdm.commands.reporting import main

if __name__ == "__main__":
    main()
