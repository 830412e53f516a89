"""The recipes that are shipped: one YAML file for each network and kind of hardware."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

from qsmprep.errors import MissingFileError


def recipe_folder() -> Path:
    """Where they lie."""
    return Path(str(resources.files("qsmprep"))) / "data" / "recipes"


def recipe_names() -> list[str]:
    """Names of all shipped recipes, without suffix."""
    return sorted(path.stem for path in recipe_folder().glob("*.yaml"))


def find_recipe(given: Path | None, network: str, device: str) -> Path:
    """The training configuration that is meant.

    Parameters
    ----------
    given : Path, optional
        A file, or the name of a shipped recipe.
    network : str
        Whose recipe is taken when none is given.
    device : str
        Decides between the recipe for a CPU and the one for a GPU.

    Raises
    ------
    MissingFileError
        When there is neither such a file nor such a recipe.
    """
    if given is None:
        given = Path(f"{network}_{'h200' if device.startswith('cuda') else 'cpu'}")
    if given.is_file():
        return given
    name = given.name.removesuffix(".yaml")
    if len(given.parts) == 1 and name in recipe_names():
        return recipe_folder() / f"{name}.yaml"
    raise MissingFileError(
        "there is no such training configuration",
        file=given,
        expected="a YAML file, or the name of a shipped recipe: " + ", ".join(recipe_names()),
    )
