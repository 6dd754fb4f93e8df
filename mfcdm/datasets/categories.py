"""Names of categories, and which of them are wanted."""

from collections.abc import Iterable, Sequence

# The 55 categories of ShapeNetCore.v2 by WordNet synset, under the names that PointFlow's data set made common.
SHAPENET = {
    "airplane": "02691156",
    "bag": "02773838",
    "basket": "02801938",
    "bathtub": "02808440",
    "bed": "02818832",
    "bench": "02828884",
    "birdhouse": "02843684",
    "bookshelf": "02871439",
    "bottle": "02876657",
    "bowl": "02880940",
    "bus": "02924116",
    "cabinet": "02933112",
    "camera": "02942699",
    "can": "02747177",
    "cap": "02954340",
    "car": "02958343",
    "cellphone": "02992529",
    "chair": "03001627",
    "clock": "03046257",
    "dishwasher": "03207941",
    "earphone": "03261776",
    "faucet": "03325088",
    "file": "03337140",
    "guitar": "03467517",
    "helmet": "03513137",
    "jar": "03593526",
    "keyboard": "03085013",
    "knife": "03624134",
    "lamp": "03636649",
    "laptop": "03642806",
    "mailbox": "03710193",
    "microphone": "03759954",
    "microwave": "03761084",
    "monitor": "03211117",
    "motorcycle": "03790512",
    "mug": "03797390",
    "piano": "03928116",
    "pillow": "03938244",
    "pistol": "03948459",
    "pot": "03991062",
    "printer": "04004475",
    "remote_control": "04074963",
    "rifle": "04090263",
    "rocket": "04099429",
    "skateboard": "04225987",
    "sofa": "04256520",
    "speaker": "03691459",
    "stove": "04330267",
    "table": "04379243",
    "telephone": "04401088",
    "tin_can": "02946921",
    "tower": "04460130",
    "train": "04468005",
    "vessel": "04530566",
    "washer": "04554684",
}

_NAMES = {synset: name for name, synset in SHAPENET.items()}


def readable(key: str) -> str:
    """The name of a ShapeNet synset; anything else is its own name."""
    return _NAMES.get(key, key)


def choose(category: str | Sequence[str] | None, available: Iterable[str], where: object) -> dict[str, str]:
    """Choose categories by name.

    Args:
        category: one or more names, or ShapeNet synsets; None for all.
        available: names or synsets that there are.
        where: file or folder, for a complaint.

    Returns:
        what each chosen category is called in `available`, by its readable name, in the order of the names: the
        label of a category is its position.

    Raises:
        ValueError: if no category, or one that is not there, is asked for.
    """
    keys = {readable(key): key for key in available}
    wanted = [category] if isinstance(category, str) else list(keys if category is None else category)
    if not wanted:
        raise ValueError(f"category={category!r} names no category; {where} has {', '.join(sorted(keys))}")
    for name in wanted:
        if readable(name) not in keys:
            raise ValueError(f"{where} has no category {name!r}; it has {', '.join(sorted(keys)) or 'none'}")
    return {name: keys[name] for name in sorted({readable(name) for name in wanted})}
