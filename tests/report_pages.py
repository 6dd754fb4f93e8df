"""Folders of runs that never ran, their pages, and what a parser finds on a page."""

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import torch
import yaml

from mfcdm.datasets import Clouds
from mfcdm.report import write_report

HOSTILE = "</script><script>document.title='taken'</script><img src=x onerror=\"document.title='taken'\">'\"&amp;"


@dataclass
class Page(HTMLParser):
    """Scripts by position, the text outside of them, and all attributes."""

    scripts: list[tuple[dict[str, str | None], str]] = field(default_factory=list)
    attributes: list[tuple[str, str, str | None]] = field(default_factory=list)
    text: str = ""

    @classmethod
    def at(cls, path: Path) -> "Page":
        page = cls()
        super(Page, page).__init__()
        page.inside = ""
        page.feed(path.read_text(encoding="utf-8"))
        page.close()
        return page

    def handle_starttag(self, tag, attrs):
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.inside = tag if tag in ("script", "style") else ""
        if tag == "script":
            self.scripts.append((dict(attrs), ""))

    def handle_endtag(self, tag):
        self.inside = ""

    def handle_data(self, data):
        if self.inside == "script":
            about, text = self.scripts[-1]
            self.scripts[-1] = about, text + data
        elif self.inside != "style":
            self.text += data

    @property
    def data(self):
        """What the page's scripts read."""
        (text,) = [text for about, text in self.scripts if about.get("id") == "data"]
        return json.loads(text)

    @property
    def charts(self):
        return {chart["key"]: chart for chart in self.data["charts"]}


def page_of(folder: Path, *arguments, **options) -> Page:
    """A run's page, written and read; arguments as of `write_report`."""
    return Page.at(write_report(folder, *arguments, **options))


def write_run(folder: Path, records=(), config=None, **files) -> Path:
    """A run's folder: metrics.jsonl from records (dicts, or lines as they are), config.yaml, and other json files."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [record if isinstance(record, str) else json.dumps(record) for record in records]
    (folder / "metrics.jsonl").write_text("".join(f"{line}\n" for line in lines))
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(config))
    for name, held in files.items():
        (folder / f"{name}.json").write_text(json.dumps(held))
    return folder


def write_samples(folder: Path, clouds, name="samples", **arrays) -> Path:
    (folder / name).mkdir(parents=True, exist_ok=True)
    np.savez(folder / name / "samples.npz", points=np.asarray(clouds), **arrays)
    return folder


def shapes(count: int, num_points: int, seed: int = 0, dim: int = 3) -> torch.Tensor:
    """Five random segments a shape in [-1, 1]^dim, (count, num_points, dim), independently sampled for every seed."""
    ends = 2 * torch.rand(2, count, 5, dim, generator=torch.Generator().manual_seed(7)) - 1
    draw = torch.Generator().manual_seed(seed)
    which = torch.randint(5, (count, num_points, 1), generator=draw).expand(-1, -1, dim)
    begin, end = (side.gather(1, which) for side in ends)
    return begin + torch.rand(count, num_points, 1, generator=draw) * (end - begin)


def training(count: int, num_points: int, seed: int = 0, dim: int = 3) -> Clouds:
    return Clouds.join(list(shapes(count, num_points, seed, dim)))


def ordinary_records(count: int):
    """Records as training makes them, with a validation every tenth."""
    draw = np.random.default_rng(0)
    for at in range(1, count + 1):
        record = {"step": 50 * at, "loss": 1 / at + draw.random(), "learning_rate": 0.01 * (1 - at / count)}
        record |= {f"loss/level_{k}": draw.random() for k in range(3)}
        record |= {f"loss/log_snr/{name}": draw.random() for name in ("-inf..-6", "-6..-3", "-3..0", "0..3", "6..inf")}
        record |= {"steps_per_second": 5 + draw.random(), "seconds": 10.0 * at}
        if at % 10 == 0:
            record |= {"validation/1nna-cd": 0.7, "validation/1nna-cd/low": 0.6, "validation/1nna-cd/high": 0.8}
            record |= {"validation/mmd-cd": 0.01, "validation/cov-cd": 0.4, "validation/num_clouds": 32}
        yield record
