"""The library without a command line: draw from a law known exactly, then train a small network and draw from it."""

import torch

from mfcdm.analytic import GaussianMixture
from mfcdm.branching import Renoise
from mfcdm.datasets import Clouds, Normalization, ParametricShapes
from mfcdm.generate import generate
from mfcdm.metrics import sliced_wasserstein_distance
from mfcdm.networks import ScoreNetwork
from mfcdm.objective import MeanFieldScoreMatching
from mfcdm.samplers import Langevin
from mfcdm.sde import CosineVPSDE
from mfcdm.subdivision import Subdivision

sde, generator = CosineVPSDE(), torch.Generator().manual_seed(0)

# 1. A sampler driven by an exact score ends as close to the law as a second fresh sample is.
law = GaussianMixture(means=[[-1.0, 0.0, 0.0], [1.0, 0.5, 0.0], [0.0, -1.0, 1.0]], stds=0.2)
fresh, again = (law.sample(4, 1024, generator) for _ in range(2))
x = Langevin(num_steps=200).sample(
    law.as_score(sde), sde, sde.prior_sample((4, 1024, 3), generator), generator=generator
)
floor, distance = (float(sliced_wasserstein_distance(y, fresh).mean()) for y in (again, x))
print(f"exact score: sliced Wasserstein distance {distance:.3f}; between two fresh samples {floor:.3f}")

# 2. A network learns shapes at 32, 64 and 128 particles, most steps on few of them.
mugs = Clouds.of(ParametricShapes(num_clouds=64, num_points=128, categories=["mug"])).x
normalization = Normalization.fit(Clouds(mugs))
subdivision, branching = Subdivision.dyadic(num_particles=128, num_levels=3, sde=sde), Renoise()
torch.manual_seed(0)
network = ScoreNetwork(width=32, depth=2, num_moments=8)
objective = MeanFieldScoreMatching(sde, subdivision, push=branching.push)
optimizer, losses = torch.optim.AdamW(network.parameters(), lr=3e-3), []
for _ in range(400):
    batch = normalization.apply(mugs[torch.randint(len(mugs), (16,), generator=generator)])
    loss = objective(network, batch, generator=generator)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    losses.append(float(loss.detach()))
first, final = (sum(part) / len(part) for part in (losses[:20], losses[-50:]))
print(f"network: loss {first:.2f} at first, {final:.2f} after {len(losses)} steps")

# 3. Its weights draw clouds of any cardinality, also of one that training never saw.
drawn = generate(network, sde, Langevin(num_steps=50), subdivision, branching, num_clouds=2, num_particles=300)
print(f"drawn: {tuple(normalization.undo(drawn).shape)}, spread {float(drawn.std()):.2f} where the data has 1")
