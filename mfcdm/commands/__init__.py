"""What the commands do, from a plain configuration: build, run, show progress, write results."""
