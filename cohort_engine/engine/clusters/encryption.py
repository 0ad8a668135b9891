"""Certificates of the parts of a cluster: scheduler, workers and this process show the same one to each other, and encrypt what they say.

One key signs itself: who has it belongs to the cluster, and nobody else is let in. It lies in a folder of the user's own, which nodes see at the same
path.
"""

from __future__ import annotations

import os
import time
from importlib import import_module
from pathlib import Path
from typing import Any

from cohort_engine.config import ComputeConfig
from cohort_engine.errors import ConfigError, optional

CERTIFICATE, KEY = "cert.pem", "key.pem"
VALID_DAYS = 365
"""How long a certificate holds; one that was made here is made again after two thirds of that."""
FOLDER = "~/.cohort-engine/tls"
"""Where certificates lie that are made here."""
SCHEME = "tls://"


def make_certificate(folder: Path) -> None:
    """Make a key and its certificate that only this user may read; others of that folder go.

    Raises
    ------
    MissingPackageError
        ``cryptography`` is not installed.
    """
    with optional("cryptography", "tls", where="compute.tls"):
        import_module("cryptography")
    from distributed.security import Security

    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    made = Security.temporary()
    for name, text in ((KEY, made.tls_client_key), (CERTIFICATE, made.tls_client_cert)):
        aside = folder / f".{name}.{os.getpid()}"
        aside.unlink(missing_ok=True)
        with os.fdopen(os.open(aside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(text)
        aside.replace(folder / name)


def security_of(compute: ComputeConfig) -> Any:
    """Give what dask wants to know of certificates; None where nothing is encrypted.

    Raises
    ------
    ConfigError
        A folder without certificates, or a key that others may read.
    """
    if not compute.tls:
        return None
    folder = Path(FOLDER if compute.tls is True else compute.tls).expanduser().absolute()
    certificate, key = folder / CERTIFICATE, folder / KEY
    if compute.tls is True and not (certificate.is_file() and time.time() - certificate.stat().st_mtime < VALID_DAYS * 2 / 3 * 86400):
        make_certificate(folder)
    if not (certificate.is_file() and key.is_file()):
        raise ConfigError(
            expected=f"a folder with {CERTIFICATE} and {KEY}", found="none", where="compute.tls",
            remedy="Name the folder that the scheduler has them from, or write `tls: true`.",
        )  # fmt: skip
    if os.name == "posix" and key.stat().st_mode & 0o077:
        raise ConfigError(expected="a key that only its owner may read", found="one for others, too", where="compute.tls", remedy="chmod 600 it.")
    from distributed.security import Security

    roles = {f"tls_{role}_{kind}": str(file) for role in ("client", "scheduler", "worker") for kind, file in (("cert", certificate), ("key", key))}
    return Security(require_encryption=True, tls_ca_file=str(certificate), **roles)


def settings_of(security: Any) -> dict[str, Any]:
    """Give the same as dask's configuration, for workers that take it from the process that starts them."""
    if security is None:
        return {}
    one = {"cert": security.tls_worker_cert, "key": security.tls_worker_key}
    tls = {"ca-file": security.tls_ca_file, "client": one, "scheduler": one, "worker": one}
    return {"distributed.comm.require-encryption": True, "distributed.comm.default-scheme": "tls", "distributed.comm.tls": tls}
