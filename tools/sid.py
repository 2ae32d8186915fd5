"""A Debian sid chroot with the newest Python versions and their debug builds, made by debootstrap.

No mount of it outlives the process that needed it: every command runs in a mount namespace of its own, so there is
nothing to unmount after a crash or Ctrl-C, and deleting the directory is always safe.  PEP788_SID_DIR names a
ready-made chroot to use instead of `build/sid`.  Packages come from PEP788_DEBIAN_MIRROR, else from the mirror that
this machine itself uses, else (it is not a Debian) from where debootstrap takes them by default.
"""

from __future__ import annotations

import ast
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

from setup_env import ATTEMPTS, BUILD, CHECKOUT, SetupError, clean_env, locked, run_quietly

PACKAGES = (
    "python3.13-dev python3.14-dev python3.15-dev python3.14-dbg python3.15-dbg "
    "python3-venv python3.13-venv python3.14-venv python3.15-venv python3-pip "
    "gcc g++ clang libclang-rt-dev make patch git ca-certificates valgrind gdb "
    "portaudio19-dev libasound2-dev "  # examples/pyaudio, examples/callback
    "libffi-dev"  # pep788.callback
).split()

# Check-Valid-Until: debootstrap does not ask for it either, and a mirror may be a snapshot of a past day.
APT = ["apt-get", "-qq", "-o", "Acquire::Retries=3", "-o", "Acquire::Check-Valid-Until=false"]

# Arguments: root, directories to bind (one word, separated by newlines), working directory, command.
ENTER = r"""
set -e
root=$1 bound=$2 cwd=$3
shift 3
mount --rbind /proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --rbind /sys "$root/sys"
mount --bind /tmp "$root/tmp"
if [ -e /etc/resolv.conf ] && [ -e "$root/etc/resolv.conf" ]; then
    mount --bind /etc/resolv.conf "$root/etc/resolv.conf"
fi
IFS='
'
for directory in $bound; do
    [ -d "$root$directory" ] || mkdir -p "$root$directory"
    mount --bind "$directory" "$root$directory"
done
unset IFS
exec chroot "$root" /usr/bin/env -C "$cwd" "$@"
"""

PIP_SETTINGS = frozenset(
    "index-url extra-index-url find-links trusted-host cert client-cert proxy timeout default-timeout retries "
    "no-index prefer-binary only-binary no-binary constraint".split()
)
FILES = ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "PIP_CERT", "PIP_CLIENT_CERT", "PIP_CONSTRAINT")


class Chroot:
    """The chroot: `prefix()` goes before a command, `env` is that command's environment."""

    def __init__(self) -> None:
        given = os.environ.get("PEP788_SID_DIR")
        self.root = Path(given).resolve() if given else BUILD / "sid"
        self.env, self._bound = environment()

    def prefix(self, cwd: Path = CHECKOUT) -> list[str]:
        """Run what follows inside, at the same path as outside."""
        bound = "\n".join(map(str, [CHECKOUT, *([] if CHECKOUT in BUILD.parents else [BUILD]), *self._bound]))
        unprivileged = [] if os.geteuid() == 0 else ["--map-root-user"]
        return [
            *("unshare", *unprivileged, "--mount", "--propagation", "private"),
            *("sh", "-c", ENTER, "sh", str(self.root), bound, str(cwd)),
        ]

    def ensure(self) -> None:
        """Make the chroot, or install what is missing in it; nothing to do is noticed in milliseconds."""
        stamp = self.root / "pep788-packages"
        wanted = "\n".join(PACKAGES)
        if stamp.exists() and stamp.read_text() == wanted:
            return
        with locked(BUILD / "locks" / "sid"):
            if stamp.exists() and stamp.read_text() == wanted:
                return  # somebody else made it while we waited
            need_root()
            if not (self.root / "bin" / "sh").exists():
                bootstrap(self.root)
            for directory in (CHECKOUT, BUILD, *self._bound):  # mount points, for later runs without privileges
                (self.root / str(directory).lstrip("/")).mkdir(parents=True, exist_ok=True)
            self._install_missing()
            stamp.write_text(wanted)

    def _install_missing(self) -> None:
        query = [*self.prefix(Path("/")), "dpkg-query", "-W", "-f", "${db:Status-Status} ${Package}\n"]
        listed = subprocess.run(query, env=self.env, stdout=subprocess.PIPE, text=True, check=True).stdout
        present = {line.split()[1] for line in listed.splitlines() if line.startswith("installed ")}
        missing = [name for name in PACKAGES if name not in present]
        if not missing:
            return
        apt = [*self.prefix(Path("/")), *APT]
        what = f"installing {' '.join(missing)} in {self.root}"
        run_quietly([*apt, "update"], what=what, env=self.env, attempts=ATTEMPTS)
        install = [*apt, "install", "--yes", "--no-install-recommends", *missing]
        run_quietly(install, what=what, env=self.env, attempts=ATTEMPTS)


def need_root() -> None:
    if sys.platform != "linux" or not shutil.which("unshare"):
        raise SetupError("the Debian sid interpreters need Linux and unshare (util-linux)")
    if os.geteuid() != 0:
        raise SetupError(
            "making the Debian sid interpreters needs root once: sudo python3 tools/interpreters.py sid\n"
            "  (or install these Python versions yourself, or leave them out: --allow-missing)"
        )


def bootstrap(root: Path) -> None:
    """Make a chroot; an attempt that fails leaves its downloads for the next one."""
    debootstrap = find_debootstrap()
    partial, downloads = root.with_name(root.name + ".partial"), BUILD / "debs"
    downloads.mkdir(parents=True, exist_ok=True)
    mirror = os.environ.get("PEP788_DEBIAN_MIRROR") or debian_mirror()
    log = BUILD / "logs" / "sid.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    print(f"making the Debian sid interpreters in {root} (about two minutes; log: {log}) ...", flush=True)
    start = time.monotonic()
    for attempt in range(1, ATTEMPTS + 1):
        remove(partial)
        # A namespace of its own: debootstrap mounts /proc and /sys in the chroot and leaves them after a failure.
        argv = ["unshare", "--mount", "--propagation", "private", debootstrap, "--variant=minbase"]
        argv += [f"--cache-dir={downloads}", f"--include={','.join(PACKAGES)}", "sid", str(partial)]
        argv += [mirror] if mirror else []
        with log.open("w") as output:
            done = subprocess.run(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT, env=clean_env(os.environ)
            )
        if done.returncode == 0:
            partial.rename(root)
            shutil.rmtree(downloads, ignore_errors=True)
            print(f"made the Debian sid interpreters in {time.monotonic() - start:.0f} s", flush=True)
            return
        time.sleep(5 * attempt)
    raise SetupError(f"debootstrap failed {ATTEMPTS} times:\n{log.read_text(errors='replace')[-3000:]}")


def find_debootstrap() -> str:
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    found = shutil.which("debootstrap", path=path)
    if found is None and shutil.which("apt-get"):
        run_quietly([*APT, "update"], what="apt-get update", attempts=ATTEMPTS)
        names = ["debootstrap", "debian-archive-keyring"]
        run_quietly([*APT, "install", "--yes", *names], what="installing debootstrap", attempts=ATTEMPTS)
        found = shutil.which("debootstrap", path=path)
    if found is None:
        raise SetupError("debootstrap was not found: please install it (Fedora: dnf install debootstrap)")
    return found


def debian_mirror() -> str:
    """The mirror that this machine itself uses: it is near and known to be reachable. Empty if it is not a Debian."""
    if shutil.which("apt-get"):
        question = ["apt-get", "indextargets", "--format", "$(LABEL)\t$(REPO_URI)", "Created-By: Packages"]
        answer = subprocess.run(question, stdin=subprocess.DEVNULL, capture_output=True, text=True).stdout
        for line in answer.splitlines():
            label, _, uri = line.partition("\t")
            if label == "Debian" and uri:
                return uri
    return ""


def remove(root: Path) -> None:
    """Delete a directory tree, but never through a mount that somebody else made in it."""
    mounts = Path("/proc/self/mountinfo")
    if mounts.exists():
        points = [line.split()[4].replace("\\040", " ") for line in mounts.read_text().splitlines()]
        inside = [point for point in points if point.startswith(f"{root}/")]
        if inside:
            raise SetupError(f"{root} is not deleted: {inside[0]} is mounted; umount it first")
    shutil.rmtree(root, ignore_errors=True)


def environment() -> tuple[dict[str, str], list[Path]]:
    """The environment inside, with the host's pip configuration, and the directories that it names."""
    env = {key: value for key, value in clean_env(os.environ).items() if not key.startswith(("PIP_", "PYENV_"))}
    for key in ("TMPDIR", "LD_LIBRARY_PATH", "SSL_CERT_DIR"):
        env.pop(key, None)
    env["PATH"] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    env["LC_ALL"] = "C.UTF-8"
    env["DEBIAN_FRONTEND"] = "noninteractive"
    settings, bound = pip_settings()
    env.update(settings)
    for key in FILES:
        if key in env:
            words = env[key].split() if key == "PIP_CONSTRAINT" else [env[key]]
            copies = [carried(path) if (path := local_path(word)) else word for word in words]
            env[key] = " ".join(filter(None, copies))
            if not env[key]:
                del env[key]
    env["PIP_CONFIG_FILE"] = os.devnull
    env["PIP_CACHE_DIR"] = str(BUILD / "pip-cache")
    env["PIP_ROOT_USER_ACTION"] = "ignore"
    return env, bound


def pip_settings() -> tuple[dict[str, str], list[Path]]:
    """The host's pip configuration as environment variables, without local paths that do not exist."""
    values: dict[str, str] = {}
    rank: dict[str, int] = {}
    done = subprocess.run(
        [sys.executable, "-m", "pip", "config", "list"], stdin=subprocess.DEVNULL, capture_output=True, text=True
    )
    lines = done.stdout.splitlines() if done.returncode == 0 else []
    if not lines:  # a Python without pip still passes the variables on
        prefix = "PIP_"
        pairs = [(key[len(prefix) :], value) for key, value in os.environ.items() if key.startswith(prefix)]
        lines = [f":env:.{key.lower().replace('_', '-')}={value!r}" for key, value in pairs]
    ranks = {"global": 0, "install": 1, ":env:": 2}
    for line in lines:
        match = re.fullmatch(r"([^=]+)\.([a-z-]+)=(.*)", line)
        if not match or match[1] not in ranks or match[2] not in PIP_SETTINGS:
            continue
        if ranks[match[1]] >= rank.get(match[2], 0):
            rank[match[2]] = ranks[match[1]]
            values[match[2]] = str(ast.literal_eval(match[3]))
    env: dict[str, str] = {}
    bound: list[Path] = []
    for key, value in values.items():
        kept = [word for word in value.split() if usable(word)]
        for path in map(local_path, kept):
            if path is not None and path.is_dir():
                # The links of an index on disk usually lead to files beside it.
                bound.append(path.parent if key.endswith("index-url") else path)
        if kept:
            env["PIP_" + key.upper().replace("-", "_")] = " ".join(kept)
    return env, sorted(set(bound))


def local_path(word: str) -> Path | None:
    word = word[len("file://") :] if word.startswith("file://") else word
    return Path(word) if word.startswith("/") else None


def usable(word: str) -> bool:
    path = local_path(word)
    return path is None or path.exists()


def carried(path: Path) -> str:
    """A copy of a certificate or constraint file of the host: the chroot has other contents at that path, or none."""
    if not path.is_file():
        return ""
    copy = BUILD / "pip" / path.name
    copy.parent.mkdir(parents=True, exist_ok=True)
    if not copy.exists() or copy.read_bytes() != path.read_bytes():
        scratch = copy.with_name(f"{copy.name}.{os.getpid()}")
        shutil.copyfile(path, scratch)
        scratch.replace(copy)
    return str(copy)
