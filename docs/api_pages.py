"""Write a page for every module of the package into a folder: python docs/api_pages.py FOLDER.

pdoc shows only what a package holds already, and `minirft.lazily` imports a name at its first use: this is that use.
"""

import sys
import warnings
from importlib import import_module
from pathlib import Path

import pdoc

ROOT = Path(__file__).parents[1]

if __name__ == "__main__":
    files = [path.relative_to(ROOT).with_suffix("") for path in sorted((ROOT / "minirft").rglob("*.py"))]
    names = [".".join(path.parts).removesuffix(".__init__") for path in files if path.name != "__main__"]
    for module in map(import_module, names):
        for name in getattr(module, "__all__", ()):
            setattr(module, name, getattr(module, name))
    # A file that its package exports by name comes twice: with the package, and by itself.
    warnings.filterwarnings("ignore", "The module specification .* adds a module named")
    pdoc.pdoc(*names, output_directory=Path(sys.argv[1]))
