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
        for name in list(getattr(module, "__all__", ())):
            value = getattr(module, name)
            setattr(module, name, value)
            if isinstance(value, type) and not value.__module__.startswith("minirft"):
                module.__all__.remove(name)  # a class of another library: its text links to what is not on the page
    for name in names[1:]:  # beside the names that a package exports, its page lists its files
        package, _, file = name.rpartition(".")
        exported = getattr(sys.modules[package], "__all__", [])  # without it, all files are listed anyway
        if file not in exported:
            exported.append(file)
    # A file that its package exports by name comes twice: with the package, and by itself.
    warnings.filterwarnings("ignore", "The module specification .* adds a module named")
    pdoc.pdoc(*names, output_directory=Path(sys.argv[1]))
