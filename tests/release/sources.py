"""Makes sources of the trial app: newsboard with trial.py, told apart by version, library, fault and migration.

By hand, `python tests/release/sources.py FOLDER` makes version 1.
"""

from __future__ import annotations

import re
import shutil
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
APP = HERE.parents[1] / "app"

LIBRARY = "iniconfig"
HASHES = {
    "2.0.0": (
        "2d91e135bf72d31a410b17c16da610a82cb55f6b0477d1a902134b24a455b8b3",
        "b6a85871a79d2e3b22d2d1b94ac2824226a63c6b741c88f7ae975f18b6778374",
    ),
    "2.1.0": (
        "3abbd2e30b36733fee78f9c7f7308f2d0050e88f0087fd25c2645f63c773e1c7",
        "9deba5723312380e77435581c6bf4935c94cbfab9b1ed33ef8d238ea168eb760",
    ),
}
"""The library's wheel and sdist by version, as sha256: `uv pip compile --generate-hashes` tells them."""

FAULTS = ("", "import", "unhealthy", "hanging")

MIGRATION = '''"""{title}."""

import sqlalchemy as sa
from alembic import op

revision = "{revision}"
down_revision = "{after}"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Bring the schema forward."""
{upgrade}


def downgrade() -> None:
    """Take it back."""
{downgrade}
'''

UPGRADES = {
    "add": ('    op.add_column("posts", sa.Column("trial", sa.Text(), nullable=True))',
            '    op.drop_column("posts", "trial")'),
    "fail": ('    op.create_table("trial", sa.Column("id", sa.Integer(), primary_key=True))\n'
             '    raise RuntimeError("this migration fails, on purpose")',
             '    op.drop_table("trial")'),
}  # fmt: skip


def stylesheet(version: str) -> str:
    """Name a version's stylesheet as a build tool would, with 8 hex digits: trial.10000000.css for version 1.

    Raises:
        ValueError: the version isn't made of 1 to 7 hex digits.
    """
    if not re.fullmatch("[0-9a-f]{1,7}", version):
        raise ValueError(f"version: 1 to 7 lower-case hex digits, not {version!r}")
    # The last digit tells 1 from 10.
    return f"trial.{version.ljust(7, '0')}{len(version) - 1}.css"


def make_source(
    folder: Path, *, version: str = "1", library: str = "2.0.0", fault: str = "", migration: str = ""
) -> Path:
    """Make a source; a folder that is there already is replaced as a whole.

    Args:
        folder: where it will be.
        version: of the code: 1 to 7 hex digits.
        library: version of iniconfig that it asks for.
        fault: what is wrong with the app; see trial.py.
        migration: "add" for one that adds a column, "fail" for one that makes a table and then fails.

    Returns:
        The folder.

    Raises:
        ValueError: a value that isn't known.
    """
    for name, value, known in (
        ("library", library, HASHES), ("fault", fault, FAULTS), ("migration", migration, ("", *UPGRADES)),
    ):  # fmt: skip
        if value not in known:
            raise ValueError(f"{name}: one of {', '.join(map(repr, known))}, not {value!r}")
    style = stylesheet(version)
    folder.parent.mkdir(parents=True, exist_ok=True)
    # Beside it, so that a rename puts it in place.
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", dir=folder.parent) as beside:
        new, old = Path(beside, "new"), Path(beside, "old")
        # instance: a database of somebody who ran the app here.
        shutil.copytree(APP, new, ignore=shutil.ignore_patterns("tests", "__pycache__", ".*_cache", "instance"))
        shutil.copy(HERE / "trial.py", new)
        (new / "VERSION").write_text(f"{version}\n")
        (new / "FAULT").write_text(f"{fault}\n")
        (new / "newsboard" / "static" / style).write_text(f"h1::after {{ content: ' {version}' }}\n")
        hashes = " \\\n".join(f"    --hash=sha256:{digest}" for digest in HASHES[library])
        with (new / "requirements.txt").open("a") as requirements:
            requirements.write(f"{LIBRARY}=={library} \\\n{hashes}\n    # via trial\n")
        if migration:
            _add_migration(new / "migrations" / "versions", migration)
        if folder.exists():
            folder.rename(old)
        new.rename(folder)
    return folder


def _add_migration(versions: Path, migration: str) -> None:
    last = max(versions.glob("[0-9]*.py"))  # their names start with their number
    after = re.search('^revision = "(.+)"$', last.read_text(), re.MULTILINE)
    if not after:
        raise ValueError(f"{last} names no revision")
    upgrade, downgrade = UPGRADES[migration]
    text = MIGRATION.format(
        title=f"A trial: {migration}",
        revision=f"trial_{migration}",
        after=after[1],
        upgrade=upgrade,
        downgrade=downgrade,
    )
    (versions / f"trial_{migration}.py").write_text(text)


def main(words: list[str]) -> int:
    """Make version 1 in the folder named."""
    if len(words) != 1 or words[0].startswith("-"):
        print("usage: python tests/release/sources.py FOLDER", file=sys.stderr)
        return 2
    print(make_source(Path(words[0]).absolute()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
