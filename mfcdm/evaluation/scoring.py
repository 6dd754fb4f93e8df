"""The scores of two sets of clouds under a protocol."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement
from typing import cast

import torch
from torch import Tensor

from mfcdm.datasets import Clouds
from mfcdm.evaluation.preparing import Prepared, prepare
from mfcdm.evaluation.protocol import Protocol
from mfcdm.evaluation.reading import FEWEST_CLOUDS
from mfcdm.evaluation.report import Report, Score
from mfcdm.metrics import (
    Draws,
    Interval,
    coverage_interval,
    divergence_interval,
    matching_interval,
    nearest_earth_movers,
    one_nearest_neighbour_interval,
    pairwise,
    sinkhorn_emd,
)
from mfcdm.metrics.all_pairs import Metric
from mfcdm.metrics.jackknife import labellings
from mfcdm.metrics.occupancy import MAX_CELLS, Bounds, occupancies
from mfcdm.metrics.transport import check_size
from mfcdm.metrics.two_sample import coverage, minimum_matching_distance, one_nearest_neighbour_accuracy

JACKKNIFE = "delete-one jackknife over both sets"
BATCHED = "none: averaged over batches"

MAX_FLOOR_PERMUTATIONS = 200  # of labels, for the floors of all scores but 1-NNA: ends of a 95 % range, known to 1.6 %

# Called with the part of the work, and how far it is: (pairs done, pairs in all).
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class _Matrices:
    """Distances within and between the sets; infinite where only the nearest were needed."""

    d_gg: Tensor
    d_rr: Tensor
    d_gr: Tensor
    nearest_only: bool = False


def evaluate(
    generated: Clouds,
    reference: Clouds,
    protocol: Protocol | None = None,
    *,
    device: torch.device | str = "cpu",
    progress: Progress | None = None,
) -> Report:
    """Compare generated with reference clouds as a protocol says.

    Args:
        generated: G clouds, of any and of mixed cardinality.
        reference: R clouds.
        protocol: default that of mfcdm.
        device: where chamfer distances are computed; everything else runs on the CPU.
        progress: called with (name of the part, pairs done, pairs in all) as the work goes on.

    Returns:
        The report, without files.

    Raises:
        ValueError: as `check_sets`, before anything is computed.
    """
    protocol = Protocol() if protocol is None else protocol
    sets = check_sets(generated, reference, protocol)
    scores: list[Score] = []
    seconds: dict[str, float] = {}
    details: dict[str, float] = {}
    for metric in protocol.metrics:
        begun = time.perf_counter()
        if metric == "jsd":
            scores.append(_occupancy_score(sets, protocol, details))
        else:
            name, matrices = _distances(metric, sets, protocol, device, progress, details)
            pool = _full if protocol.pooling == "full" else _batched
            scores += pool(name, matrices, protocol)
        seconds[metric] = round(time.perf_counter() - begun, 3)
    clouds = (sets.generated, sets.reference)
    sizes = {
        "clouds": len(sets.generated),
        "fewest_points": min(part.smallest[1] for part in clouds),
        "most_points": max(part.x.shape[1] for part in clouds),
        "dimension": sets.generated.x.shape[2],
    }
    notes = (*sets.notes, *_remarks(protocol))
    return Report(protocol, scores, sizes, notes, seconds, details)


def check_sets(generated: Clouds, reference: Clouds, protocol: Protocol) -> Prepared:
    """Both sets as `evaluate` compares them; what it would refuse is refused here, before hours of work.

    Raises:
        ValueError: if the sets do not fit together or the protocol, have fewer than 4 clouds, or these or the cells
            of the protocol's grid are too many.
    """
    if "jsd" in protocol.metrics and protocol.jsd_resolution ** reference.x.shape[2] > MAX_CELLS:
        raise ValueError(
            f"protocol.jsd_resolution={protocol.jsd_resolution} makes {protocol.jsd_resolution}^{reference.x.shape[2]} "
            f"cells; at most {MAX_CELLS:,} are taken"
        )
    sets = prepare(generated, reference, protocol)
    if len(sets.generated) < FEWEST_CLOUDS:
        raise ValueError(
            f"scores with intervals need at least {FEWEST_CLOUDS} clouds on each side, got {len(sets.generated)}"
        )
    if "emd" in protocol.metrics:
        sizes = {len(points) for clouds in (sets.generated, sets.reference) for points in clouds.points()}
        for one, other in combinations_with_replacement(sorted(sizes), 2):
            _check_transport(one, other, protocol)
    return sets


def _check_transport(one: int, other: int, protocol: Protocol) -> None:
    try:
        check_size(one, other, exact=protocol.emd != "sinkhorn")
    except ValueError as error:
        raise ValueError(f"{error} (protocol.num_points), or leave emd out of protocol.metrics") from error


def _remarks(protocol: Protocol) -> Iterator[str]:
    """What a reader has to know about the scores of a protocol."""
    if protocol.pooling == "batches":
        yield (
            f"scores are averaged over batches of {protocol.batch_size} clouds, which flatters a bad generator; "
            "they cannot be compared with scores over full sets"
        )
    elif "emd" in protocol.metrics and protocol.emd == "exact" and not protocol.emd_floors:
        yield "mmd-emd and cov-emd have no noise floor (emd_floors=false)"


def _distances(
    metric: str,
    sets: Prepared,
    protocol: Protocol,
    device: torch.device | str,
    progress: Progress | None,
    details: dict[str, float],
) -> tuple[str, _Matrices]:
    """The distances that a metric of the protocol stands for, and the name under which scores go."""
    # float64: equal distances stay equal, and unequal ones apart, for ties
    g, r = sets.generated.x.double(), sets.reference.x.double()
    lengths_g, lengths_r = sets.generated.lengths, sets.reference.lengths
    if metric == "emd" and protocol.emd == "exact" and protocol.pooling == "full":
        found = nearest_earth_movers(
            g,
            r,
            lengths_generated=lengths_g,
            lengths_reference=lengths_r,
            labellings=labellings(len(g), len(r), _draws(protocol)) if protocol.emd_floors else None,
            progress=_part(progress, "emd"),
        )
        details |= {"emd_pairs": found.num_pairs, "emd_solved": found.num_solved, "emd_saved": found.share_saved}
        return "emd", _Matrices(found.d_gg, found.d_rr, found.d_gr, nearest_only=True)
    kind = cast(Metric, "sinkhorn_emd" if metric == "emd" and protocol.emd == "sinkhorn" else metric)
    if kind == "cd":
        g, r = g.to(device), r.to(device)
    elif kind == "sinkhorn_emd":
        details |= _measured_error(sets)
    d_gg = pairwise(g, g, kind, lengths_a=lengths_g, lengths_b=lengths_g, progress=_part(progress, f"{kind} (1 of 3)"))
    d_rr = pairwise(r, r, kind, lengths_a=lengths_r, lengths_b=lengths_r, progress=_part(progress, f"{kind} (2 of 3)"))
    d_gr = pairwise(g, r, kind, lengths_a=lengths_g, lengths_b=lengths_r, progress=_part(progress, f"{kind} (3 of 3)"))
    return kind, _Matrices(d_gg.cpu(), d_rr.cpu(), d_gr.cpu())


def _part(progress: Progress | None, name: str) -> Callable[[int, int], None] | None:
    return None if progress is None else lambda done, total: progress(name, done, total)


def _measured_error(sets: Prepared) -> dict[str, float]:
    """How far the approximate distance may be from the exact one, as a share of it, over pairs of the two sets."""
    gaps = []
    for x, y in list(zip(sets.generated.points(), sets.reference.points(), strict=True))[:16]:
        lower, upper = sinkhorn_emd(x[None].double(), y[None].double())
        gaps.append(float((upper - lower) / upper) if float(upper) > 0 else 0.0)
    return {"sinkhorn_emd_error_at_most": max(gaps), "sinkhorn_emd_error_pairs": len(gaps)}


def _full(name: str, matrices: _Matrices, protocol: Protocol) -> list[Score]:
    """Scores over the full sets, with intervals and noise floors."""
    draws, few = _draws(protocol), matrices.nearest_only
    enough = few and protocol.emd_floors  # for the floors, though most distances are missing
    d_gr, d_gg, d_rr = matrices.d_gr, matrices.d_gg, matrices.d_rr
    matching = matching_interval(d_gr, d_gg, d_rr, draws, nearest_only=enough)
    covered = coverage_interval(d_gr, d_gg, d_rr, draws, nearest_only=enough)
    nearest = one_nearest_neighbour_interval(
        d_gg,
        d_rr,
        d_gr,
        num_permutations=protocol.num_permutations,
        confidence=protocol.confidence,
        generator=torch.Generator().manual_seed(protocol.seed),
        design="permutation" if few else "subsampling",
    )
    how = "label permutation" if few else "subsampling without replacement"
    return [
        _scored(f"mmd-{name}", matching, 0.0),
        _scored(f"cov-{name}", covered, 1.0),
        Score(
            f"1nna-{name}",
            nearest.score,
            nearest.low,
            nearest.high,
            nearest.null_low,
            nearest.null_high,
            f"Wilson, effective size by {how}",
            nearest.p_value,
            0.5,
        ),
    ]


def _draws(protocol: Protocol) -> Draws:
    """How sure intervals are, and the labels that noise floors permute."""
    return Draws(protocol.confidence, min(MAX_FLOOR_PERMUTATIONS, protocol.num_permutations), protocol.seed)


def _scored(key: str, found: Interval, best: float) -> Score:
    return Score(key, found.score, found.low, found.high, found.null_low, found.null_high, JACKKNIFE, best=best)


def _batched(name: str, matrices: _Matrices, protocol: Protocol) -> list[Score]:
    """Scores averaged over batches: cloud i is compared with those of its own batch only; a rest of one is left out."""
    size = cast(int, protocol.batch_size)
    starts = [start for start in range(0, len(matrices.d_gr), size) if len(matrices.d_gr) - start > 1]
    parts = []
    for start in starts:
        part = slice(start, start + size)
        d_gg, d_rr, d_gr = (d[part, part] for d in (matrices.d_gg, matrices.d_rr, matrices.d_gr))
        parts.append(
            (minimum_matching_distance(d_gr), coverage(d_gr), one_nearest_neighbour_accuracy(d_gg, d_rr, d_gr))
        )
    mmd, cov, nna = torch.tensor(parts, dtype=torch.float64).mean(dim=0).tolist()
    return [
        Score(f"mmd-{name}", mmd, interval=BATCHED),
        Score(f"cov-{name}", cov, interval=BATCHED, best=1.0),
        Score(f"1nna-{name}", nna, interval=BATCHED, best=0.5),
    ]


def _occupancy_score(sets: Prepared, protocol: Protocol, details: dict[str, float]) -> Score:
    """Jensen-Shannon divergence over a grid whose outside is one more cell; it is never pooled in batches."""
    g, r = sets.generated, sets.reference
    bounds: Bounds
    if protocol.jsd_bounds is not None:
        bounds = (protocol.jsd_bounds[0], protocol.jsd_bounds[1])
    else:
        points = torch.cat(r.points()).double()
        low, high = points.amin(dim=0), points.amax(dim=0)
        margin = max(0.05 * float((high - low).max()), torch.finfo(torch.float32).eps)
        bounds = (low - margin, high + margin)
    p, q = occupancies(
        g.x,
        r.x,
        protocol.jsd_resolution,
        bounds,
        lengths_a=g.lengths,
        lengths_b=r.lengths,
        outside="cell",
    )
    details["jsd_generated_outside"] = float(p[:, [p.shape[1] - 1]].sum()) / p.shape[0]
    found = divergence_interval(p, q, _draws(protocol))
    return _scored("jsd", found, 0.0)
