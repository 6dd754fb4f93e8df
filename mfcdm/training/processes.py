"""The processes that train one network together, each with a part of every batch.

Every process holds the whole network, and makes the same decisions from the same numbers: what one of them alone knows,
a signal, the time, an error, is agreed upon here before anybody acts on it.
"""

import pickle
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol, TypeVar

import torch
from torch import Tensor, distributed, nn
from torch.optim import Optimizer

from mfcdm.randomness import Rows

Result = TypeVar("Result")


class Fabric(Protocol):
    """What is needed of lightning's Fabric."""

    @property
    def device(self) -> torch.device: ...  # noqa: D102

    @property
    def global_rank(self) -> int: ...  # noqa: D102

    @property
    def world_size(self) -> int: ...  # noqa: D102

    def setup(self, module: nn.Module, *optimizers: Optimizer) -> Any: ...  # noqa: D102

    def backward(self, tensor: Tensor) -> None: ...  # noqa: D102


class Processes:
    """What the processes of a run do together; of a single one each method is its own trivial case.

    Every method but `rows` must be called by all processes, in the same order.

    Args:
        fabric: launched; None for a single process.
    """

    shared: ClassVar[Exception | None] = None  # the last error that every process has raised

    def __init__(self, fabric: Fabric | None = None) -> None:
        self.rank, self.count = (0, 1) if fabric is None else (fabric.global_rank, fabric.world_size)
        self.device = torch.device("cpu") if fabric is None else fabric.device

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes and speaks."""
        return self.rank == 0

    def rows(self, generator: torch.Generator, num_clouds: int, parts: int = 1, part: int = 0) -> Rows:
        """A batch's generator for one of equally many parts of this process' clouds.

        Args:
            generator: of the whole batch; the result has a copy, so that the parts draw the same numbers.
            num_clouds: of this process.
            parts: that they fall into.
            part: which one.
        """
        size = num_clouds // parts
        first = self.rank * num_clouds + part * size
        return Rows(generator.clone_state(), first, size, self.count * num_clouds)

    def any(self, flag: bool) -> bool:
        """Whether it is true in any process."""
        return flag if self.count == 1 else bool(self._total(torch.tensor([float(flag)])) > 0)

    def number_of_first(self, value: float) -> float:
        """The first process' number."""
        if self.count == 1:
            return value
        return float(self._total(torch.tensor([value if self.is_first else 0.0], dtype=torch.float64)))

    def mean(self, value: Tensor) -> Tensor:
        """Mean of the processes' numbers, without gradient."""
        return value if self.count == 1 else self._total(value.detach().clone()) / self.count

    def least(self, value: int) -> int:
        """The smallest of the processes' numbers."""
        return int(self.gathered(torch.tensor([value])).min())

    def gathered(self, own: Tensor) -> Tensor:
        """The parts (n, ...) of all processes one after the other, (count * n, ...), exactly."""
        if self.count == 1:
            return own
        every = own.new_zeros((self.count, *own.shape))
        every[self.rank] = own  # to which the others add 0
        return self._total(every).flatten(0, 1)

    def objects(self, own: Result) -> list[Result]:
        """What each process has, in order; it is pickled."""
        if self.count == 1:
            return [own]
        found: list[Any] = [None] * self.count
        with _heard():
            distributed.all_gather_object(found, own)
        return found

    def copy_first(self, module: nn.Module) -> None:
        """Give every process the first one's weights."""
        if self.count > 1:
            with _heard():
                for tensor in module.state_dict().values():
                    distributed.broadcast(tensor, 0)

    def average_gradients(self, module: nn.Module) -> None:
        """Replace each gradient by its mean over the processes.

        One sum of all gradients after the backward pass, not a wrapper that sums them within it: the Jacobian's loss
        evaluates the network three times, a level may leave weights out, and micro-batches are many backward passes.
        Each of them is an exception to such a wrapper's rules, and networks of this size are summed in milliseconds.
        """
        if self.count == 1:
            return
        weights = [weight for weight in module.parameters() if weight.requires_grad]
        own = [torch.zeros_like(weight) if weight.grad is None else weight.grad for weight in weights]
        used = own[0].new_tensor([weight.grad is not None for weight in weights])
        flat = self._total(torch.cat([*(gradient.flatten() for gradient in own), used]))
        *sums, used = flat.split([*(gradient.numel() for gradient in own), len(own)])
        for weight, total, users in zip(weights, sums, used.tolist(), strict=True):
            # An optimizer leaves a weight alone whose gradient is None, and not where it is 0.
            weight.grad = (total / self.count).view_as(weight) if users else None

    @contextmanager
    def together(self) -> Iterator[None]:
        """A block that fails in every process where it fails in one, with the error of the first that it failed in.

        All processes must come to its end, or fail in it. A block within it may be another such block; other exchanges
        may be in it only where no process can fail before them.
        """
        if self.count == 1:
            yield
            return
        error = None
        try:
            yield
        except Exception as raised:
            if raised is self.shared:  # by a block within, in every process
                raise
            error = raised
        if self.any(error is not None):
            raise self.agreed(next(each for each in self.objects(_portable(error)) if each is not None))

    def agreed(self, error: Exception) -> Exception:
        """Take note of an error that every process raises, so that only one speaks of it."""
        Processes.shared = error
        return error

    def by_first(self, act: Callable[[], Result]) -> Result:
        """Have the first process alone do something; what it gets, or its error, all get."""
        result: Any = None
        with self.together():
            if self.is_first:
                result = act()
        return self.objects(result)[0]

    def leave(self) -> None:
        """Part, once all are done with each other."""
        if self.count > 1 and distributed.is_initialized():
            self.any(False)
            distributed.destroy_process_group()

    def _total(self, tensor: Tensor) -> Tensor:
        """Sum over the processes; where the devices are GPUs, on them."""
        with _heard():
            tensor = tensor.to(self.device)
            distributed.all_reduce(tensor)
        return tensor


ALONE = Processes()


@contextmanager
def _heard() -> Iterator[None]:
    """Whatever torch says when a process is gone is said in a sentence."""
    try:
        yield
    except RuntimeError as error:
        cause = " ".join(str(error).split())
        raise ConnectionError(f"another process of this run has ended, and the run with it ({cause[:120]})") from error


def _portable(error: Exception | None) -> Exception | None:
    """The error, or one that says the same where it cannot be sent."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
