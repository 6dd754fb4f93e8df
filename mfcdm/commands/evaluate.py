"""evaluate.py: score generated clouds against reference clouds under a protocol."""

from pathlib import Path
from typing import Any

from mfcdm.atomic import check_writable
from mfcdm.build import check_arguments
from mfcdm.commands.scoring import Opened, publish, read_protocol, score
from mfcdm.evaluation import Report
from mfcdm.settings import EvaluateKeys, check_device
from mfcdm.training.scores import RecordedRun


def evaluate_run(config: dict[str, Any]) -> Report:
    """Compare the files that `config` names, print a table, write the report, and record it in a W&B run."""
    check_arguments(EvaluateKeys, config, "")
    protocol = read_protocol(config["protocol"])
    device = check_device(f"device={config['device']}", config["device"])
    output = None if config["output"] is None else _writable(Path(config["output"]))
    run = None if config["run"] is None else _recorded(config["run"])
    generated = Opened.at(config["generated"], config["generated_split"])
    reference = Opened.at(config["reference"], config["reference_split"] or protocol.split)
    report = score(generated, reference, protocol, device)
    publish(report, output, run)
    return report


def _writable(output: Path) -> Path:
    """The report's path, once it is known that it can be written: before the work, which would be lost."""
    if output.is_dir():
        raise ValueError(f"output={output} is a folder; give the name of a file, for instance {output}/report.json")
    output.parent.mkdir(parents=True, exist_ok=True)
    check_writable(output)
    return output


def _recorded(path: str) -> RecordedRun:
    """The training run that gets the scores."""
    try:
        return RecordedRun.of(path)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"run={path}: {error}") from error
