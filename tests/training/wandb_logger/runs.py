"""Runs of W&B in processes of their own, and what an offline run wrote, read back from its transaction log."""

import json
import struct
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
CONFIG = {"seed": 3, "network": {"width": 8}, "name": None}


def records(path):
    """The records of a .wandb file: a header of 7 bytes, then LevelDB's log format in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    data, offset, message = path.read_bytes(), 7, b""
    while offset + 7 <= len(data):
        left = 32768 - offset % 32768
        if left < 7:
            offset += left
            continue
        _, length, kind = struct.unpack("<IHB", data[offset : offset + 7])
        message += data[offset + 7 : offset + 7 + length]
        offset += 7 + length
        if kind in (1, 4):  # whole, or its last fragment
            record = wandb_internal_pb2.Record()
            record.ParseFromString(message)
            message = b""
            yield record


def parts(folder):
    """The records of each part of a run, the oldest first."""
    import wandb

    wandb.teardown()  # its service may still be writing
    found = [list(records(path)) for path in folder.glob("wandb/offline-run-*/*.wandb")]
    return sorted(found, key=lambda part: run_of(part).start_time.ToNanoseconds())


def run_of(part):
    return next(record.run for record in part if record.HasField("run"))


def rows(part):
    """History rows as {name: value}; the value of a picture or of clouds is a dictionary."""
    found = []
    for record in part:
        if record.HasField("history"):
            row = {}
            for item in record.history.item:
                name, *inner = item.nested_key or [item.key]
                value = json.loads(item.value_json)
                if inner:
                    row.setdefault(name, {})[inner[0]] = value
                else:
                    row[name] = value
            found.append(row)
    return found


def scalars(part, name="loss"):
    return [(row["_step"], row["trainer/step"], row[name]) for row in rows(part) if name in row]


def finished(part):
    return [record.exit.exit_code for record in part if record.HasField("exit")]


SCRIPT = """
import sys, time
from mfcdm.training import loggers, run_note
from mfcdm.training.loggers import Wandb
log = Wandb(sys.argv[1], {{}}, on_failure=lambda sentence: print("said:", sentence, flush=True))
log.log(10, {{"loss": 1.0}})
{middle}
log.log(20, {{"loss": 2.0}})
log.close()
print("went on")
"""


def started(folder, middle):
    """A process of its own, in a group of its own, as a shell starts it."""
    command = [sys.executable, "-c", SCRIPT.format(middle=middle), str(folder)]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, cwd=ROOT, text=True, start_new_session=True, **pipes)
