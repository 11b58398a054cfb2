"""The kind of drive that a path lies on, in words for people, and its cost where it has one."""

from __future__ import annotations

import os
from dataclasses import dataclass

from .drive import drive_of, is_rotational
from .machine import in_wsl, mount_of, not_kept

NETWORK = {"nfs", "nfs4", "cifs", "smb3", "smbfs", "fuse.sshfs", "ceph", "glusterfs", "lustre"}


@dataclass(frozen=True, slots=True)
class Storage:
    """`costs`: the work that is slower on such a drive, and the way out; empty where none is."""

    kind: str
    costs: str = ""


def storage_of(path: str, root: str = "/") -> Storage:
    """`root` is where /proc and /sys are looked for. Never raises: a drive of which nobody tells is "of unknown kind"."""
    system, _ = mount_of(os.path.realpath(path), root)
    if system == "9p":
        kind = "a Windows drive seen from WSL (9p)" if in_wsl(root) else "another machine's folder (9p)"
        return Storage(kind, "nothing that is read is kept: keep models on Linux's own drive" if not_kept(path, root) else "")
    if system in NETWORK:
        return Storage(f"network ({system})", "as fast as the network: a copy on a drive of this machine is read ahead faster")
    if system == "fuseblk":
        return Storage("NTFS through FUSE (ntfs-3g)", "reading goes through a program: mount it with ntfs3, or use a drive of Linux's own")
    drive = drive_of(path, root)
    turns = is_rotational(drive, root)
    if turns:
        return Storage("hard disk", "seeks: one file is read at a time, and nodes wait for their files; models belong on an SSD")
    if drive.startswith("nvme"):
        return Storage("NVMe")
    if turns is False:
        return Storage("SATA SSD" if drive.startswith("sd") else "SSD")
    return Storage(f"of unknown kind ({system})" if system else "of unknown kind")
