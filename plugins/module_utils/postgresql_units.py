"""Services that must take up changed files: which have, and which have yet to."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from ansible.module_utils.filesystem import read_text, write_atomically

if TYPE_CHECKING:
    from ansible.module_utils.basic import AnsibleModule

STATE = Path("/var/lib/flask-on-metal/postgresql")


class Unit:
    """A service and the files that it reads.

    What it last took up is written down, and not concluded from whether this run wrote a file: a run that was
    interrupted between the file and the service is mended by the next one, and a certificate that another role renewed
    is seen, too.
    """

    def __init__(self, module: AnsibleModule, name: str, files: Iterable[str | Path], state: Path = STATE) -> None:
        """Note the service and its files."""
        self.module, self.name, self.state = module, name, state
        self.files = [Path(file) for file in files]

    def shown(self, name: str) -> str:
        """Ask systemd for one property."""
        _, out, _ = self.module.run_command(["systemctl", "show", "--value", f"--property={name}", self.name])
        return str(out).strip()

    def running(self) -> bool:
        """Whether it is up, or on its way."""
        return self.shown("ActiveState") in ("active", "activating", "reloading")

    def enabled(self) -> bool:
        """Whether it starts with the host."""
        status, _, _ = self.module.run_command(["systemctl", "is-enabled", "--quiet", self.name])
        return bool(status == 0)

    def digest(self) -> str:
        """Sum up what its files say now."""
        whole = "".join(f"{path}\0{read_text(path)}\0" for path in self.files)
        return hashlib.sha256(whole.encode("utf-8", "surrogateescape")).hexdigest()

    def behind(self) -> bool:
        """Whether its files say something else than what it last took up."""
        return (read_text(self.state / self.name) or "").strip() != self.digest()

    def remember(self, digest: str) -> None:
        """Write down what it took up: the digest from before it was told to."""
        self.state.mkdir(mode=0o700, parents=True, exist_ok=True)
        write_atomically(self.state / self.name, f"{digest}\n", 0o600)

    def system(self, *words: str) -> None:
        """Have systemd do something, its own files read anew where they changed."""
        if self.shown("NeedDaemonReload") == "yes":
            self.module.run_command(["systemctl", "daemon-reload"])
        status, out, err = self.module.run_command(["systemctl", *words, self.name])
        if status:
            self.module.fail_json(
                msg=f"systemctl {' '.join(words)} {self.name}: {(out + err).strip()}\n{self.journal()}"
            )

    def journal(self) -> str:
        """Return its last lines, for a message."""
        _, out, _ = self.module.run_command(
            ["journalctl", "--unit", self.name, "--lines=15", "--no-pager", "--output=cat"]
        )
        return f"Its journal ends with:\n{str(out).strip()}"
