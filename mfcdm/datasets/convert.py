"""python -m mfcdm.datasets.convert SOURCE OUTPUT: clouds of any format become a mapped archive; --help says how."""

from mfcdm.commands.convert import main

if __name__ == "__main__":
    main()
