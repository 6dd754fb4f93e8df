"""Registers, spills and shared memory of every Triton kernel, without a GPU: python benchmarks/compile_triton.py

Compiles the kernels of the ball convolution to cubins for each architecture in the table of configurations, in every
variant that is launched: value types, normalisations, channels of a slab, and the gradients that are asked for.
Prints a table and writes compile_triton.csv beside this file. Needs Triton: pip install --no-deps triton==3.6.0
"""

import argparse
import re
import subprocess
import tempfile
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import triton
from hardware import write_csv
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from mfcdm.interaction import triton_kernels
from mfcdm.interaction.boxes import TILE_SIZE
from mfcdm.interaction.triton_launch import CONFIGURATIONS, Configuration, configuration

TYPES = {"float32": "*fp32", "bfloat16": "*bf16", "float16": "*fp16"}
INTEGERS = ("order", "lengths", "near_offsets", "near_tiles", "row_order", "row_lengths", "column_lengths")
NUMBERS = ("unit", "inverse_squared_radius")
SIZES = (*triton_kernels.SIZES, *triton_kernels.STRIDES)

# What the sweep is asked for: (both roles of x at once, results that are not wanted).
SWEEPS = {
    "x, v, bandwidth": (True, ()),
    "v, bandwidth": (False, ("pulled",)),
    "v": (False, ("pulled", "spread")),
    "y, v, bandwidth": (False, ()),
    "x of y": (False, ("carried", "spread")),
}

Variant = tuple[str, str, dict[str, str], dict[str, Any]]  # kernel, what it is for, pointer types, constants


def variants(dtype: str, kernel: bool, block: int) -> Iterator[Variant]:
    """Every launch of one convolution and its gradients."""
    values, shape = TYPES[dtype], {"TILE": TILE_SIZE, "BLOCK": block}
    points = {"pairing": None, "weight": None, "average": None, "POINTS": True, "TILE": TILE_SIZE, "BLOCK": 4}
    yield "lay_out_tile", "points", {"values": values}, points
    plain = {**shape, "pairing": None, "weight": None, "average": None, "POINTS": False}
    yield "lay_out_tile", "values", {"values": values}, plain
    # with the kernel normalisation the averages, and so g, are in float32
    ghat = {**shape, "POINTS": False} if kernel else {**shape, "pairing": None, "average": None, "POINTS": False}
    yield "lay_out_tile", "ghat", {} if kernel else {"values": values}, ghat
    yield "average_tile", "out", {} if kernel else {"out": values}, {**shape, "KERNEL": kernel}
    for wanted, (both, unwanted) in SWEEPS.items():
        of_queries = wanted == "x of y"
        absent = [*unwanted, *([] if kernel and (both or of_queries) else ["row_pairing"])]
        absent += [] if kernel and not of_queries else ["column_pairing"]
        yield (
            "sweep_tile",
            wanted,
            {"carried": values},
            {**shape, "KERNEL": kernel, "BOTH": both, **dict.fromkeys(absent)},
        )


def compiled(variant: Variant, architecture: int, chosen: Configuration) -> dict[str, int]:
    """Compile for an architecture and return what a program needs."""
    name, _, types, constants = variant
    function = getattr(triton_kernels, name)
    constants = {**constants, "PRECISION": chosen.precision} if "PRECISION" in function.arg_names else constants
    signature, aligned = {}, {}
    for position, argument in enumerate(function.arg_names):
        if argument in constants:
            signature[argument] = "constexpr"
        elif argument in SIZES or argument in NUMBERS:
            signature[argument] = "i32" if argument in SIZES else "fp32"
        else:
            signature[argument] = types.get(argument, "*i64" if argument in INTEGERS else "*fp32")
            aligned[(position,)] = [["tt.divisibility", 16]]
    binary = triton.compile(
        ASTSource(function, signature, constants, aligned),
        target=GPUTarget("cuda", architecture, 32),
        options={"num_warps": chosen.num_warps, "num_stages": chosen.num_stages},
    )
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary.asm["cubin"])
        file.flush()
        command = [triton.knobs.nvidia.cuobjdump.path, "-res-usage", file.name]
        usage = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.search(r"REG:(\d+) STACK:(\d+)", usage)
    if found is None:
        raise RuntimeError(f"cuobjdump said nothing about registers, but {usage!r}")
    return {"registers": int(found[1]), "stack_bytes": int(found[2]), "shared_bytes": binary.metadata.shared}


def main() -> None:
    """Print the table and write the csv."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architectures", type=int, nargs="+", default=sorted(CONFIGURATIONS))
    parser.add_argument("--blocks", type=int, nargs="+", default=sorted(CONFIGURATIONS[min(CONFIGURATIONS)]))
    parser.add_argument("--dtypes", nargs="+", choices=TYPES, default=list(TYPES))
    parser.add_argument("--normalizations", nargs="+", choices=("mean", "kernel"), default=("mean", "kernel"))
    parser.add_argument("--output", type=Path, default=Path(__file__).with_suffix(".csv"))
    options = parser.parse_args()

    rows = []
    header = f"{'for':<16} {'normalize':<9} {'dtype':<8} {'block':>5} {'warps':>5} {'stages':>6}"
    print(f"{'sm':>4} {'kernel':<12} {header} {'registers':>9} {'stack':>6} {'shared':>7}")
    settings = product(options.architectures, options.blocks, options.normalizations, options.dtypes)
    for architecture, block, normalize, dtype in settings:
        for variant in variants(dtype, normalize == "kernel", block):
            name, purpose = variant[:2]
            chosen = configuration(name, architecture, block)
            row: dict[str, Any] = {"architecture": architecture, "kernel": name, "for": purpose}
            row |= {"normalize": normalize, "dtype": dtype, "block": block}
            row |= {"num_warps": chosen.num_warps, "num_stages": chosen.num_stages, "precision": chosen.precision}
            row |= compiled(variant, architecture, chosen)
            rows.append(row)
            about = f"{purpose:<16} {normalize:<9} {dtype:<8} {block:>5} {chosen.num_warps:>5} {chosen.num_stages:>6}"
            needs = f"{row['registers']:>9} {row['stack_bytes']:>6} {row['shared_bytes']:>7}"
            print(f"{architecture:>4} {name:<12} {about} {needs}", flush=True)
    write_csv(options.output, rows, triton=triton.__version__)


if __name__ == "__main__":
    main()
