"""One step of a run: a batch, its loss, the gradient of all processes, and the move of the weights."""

from __future__ import annotations

import math
import warnings
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from mfcdm.objective import Draw, Loss
from mfcdm.randomness import Rows
from mfcdm.training.refusals import RefusedStep

if TYPE_CHECKING:
    from mfcdm.training.engine import Trainer

ADVICE = "lower trainer.learning_rate, or look for outliers in the data"


def take_step(run: Trainer) -> tuple[Loss, bool]:
    """One batch: its loss, and whether it was applied.

    Numbers are drawn for the whole batch, whoever has which of its clouds; each process and each micro-batch takes its
    rows of them. The gradients' mean is that of the whole batch, as all parts are equally large.

    Raises:
        FloatingPointError: if steps go on being refused, or the network cannot be evaluated any more.
    """
    stage = run.vitals.stage
    with stage("data"):
        batch, generator = run.batches.at(run.step), run.batches.generator(run.step)
    for optimizer in run.optimizers:
        for group in optimizer.param_groups:
            group["lr"] = run.learning_rate()
        optimizer.zero_grad(set_to_none=True)
    with stage("draw"):
        rows = run.processes.rows(generator, len(batch))
        draw = run.objective.draw(batch.x.to(run.fabric.device), _moved(run, batch.lengths), rows)
    loss = _loss_with_gradient(run, draw, _moved(run, batch.labels), rows)
    run.vitals.batch(run.batches.batch_size, _particles(draw) * run.processes.count)
    norm = nn.utils.clip_grad_norm_(run.raw.parameters(), run.options.gradient_clip)
    # One non-finite number in the gradient would put NaN into every weight; such a step is not applied.
    if not (bool(norm.isfinite()) and bool(loss.total.isfinite())):
        _refuse(run, RefusedStep.of(run.step + 1, run.batches.indices(run.step), loss, float(norm)))
        return loss, False
    with stage("optimizer"):
        for optimizer in run.optimizers:
            optimizer.step()
        run.ema.update(run.raw)
    with stage("branching"):
        run.branching.step(batch, run.step, run.learning_rate())
        run.branching_watch.step(batch, run.step)
    run.vitals.gradient(float(norm))
    run.refusals.apply()
    return loss, True


def diagnosis(*what: str) -> FloatingPointError:
    """Why a run cannot go on, and what may help."""
    return FloatingPointError("; ".join([*(part for part in what if part), ADVICE]))


def _loss_with_gradient(run: Trainer, draw: Draw, label: Tensor | None, rows: Rows) -> Loss:
    """The loss of the whole batch; its gradient is in the network's weights, in every process."""
    parts, stage, losses = run.options.num_parts, run.vitals.stage, []
    size = len(draw.t) // parts
    try:
        with run.processes.together():
            for part in range(parts):
                own = slice(part * size, (part + 1) * size)
                with stage("forward"):
                    some = None if label is None else label[own]
                    source = run.processes.rows(rows.generator, len(draw.t), parts, part)
                    losses.append(run.objective.loss(run.network, draw[own], some, source))
                with stage("backward"):
                    run.fabric.backward(losses[-1].total / parts)
    except ValueError as error:
        if run.ema.updates == 0:  # nothing is learned yet: the mistake is in what was given
            raise
        # An overflow in the weights, as in a bandwidth exp(w), is refused inside the network before it is a loss.
        times = run.processes.gathered(draw.t).tolist()
        refused = RefusedStep(run.step + 1, draw.level, times, run.batches.indices(run.step).tolist())
        broken = diagnosis(f"the network broke down at {refused}: {error}", _told(run, refused))
        raise run.processes.agreed(broken) from error
    with stage("exchange"):
        run.processes.average_gradients(run.raw)
        return _of_all(run, losses)


def _of_all(run: Trainer, losses: list[Loss]) -> Loss:
    """The losses of this process' micro-batches and of all others as one."""
    gathered = run.processes.gathered
    matching = gathered(torch.cat([loss.score_matching for loss in losses]))
    total, jacobian = matching.mean(), None
    if losses[0].jacobian is not None:
        jacobian = gathered(torch.cat([loss.jacobian for loss in losses if loss.jacobian is not None]))
        total = total + run.objective.jacobian_weight * jacobian.mean()
    return Loss(total, matching, jacobian, losses[0].level, gathered(torch.cat([loss.t for loss in losses])))


def _refuse(run: Trainer, refused: RefusedStep) -> None:
    """Take note of a step that is not applied; too many in a row end the run."""
    told = _told(run, refused)
    if run.refusals.hopeless:
        raise run.processes.agreed(diagnosis(f"{run.refusals}, the last at {refused}", told))
    if run.refusals.in_all == 1:
        warnings.warn(f"skipped for its non-finite loss or gradient: {refused}; {told}", stacklevel=2)


def _told(run: Trainer, refused: RefusedStep) -> str:
    """Where the first process has written what repeats the step."""
    return run.refusals.refuse(refused, run.folder if run.processes.is_first else None, run.batches.seed)


def _particles(draw: Draw) -> int:
    """Of all clouds together."""
    return math.prod(draw.x_t.shape[:2]) if draw.lengths is None else int(draw.lengths.sum())


def _moved(run: Trainer, tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(run.fabric.device)
