"""tools/: the pages on which pip finds wheels, and which wheels are built."""

import base64
import hashlib
import json
import subprocess
import sys
import sysconfig
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

pytestmark = pytest.mark.once("pages for pip")

TOOLS = Path(__file__).resolve().parents[1] / "tools"
PYTHON = f"cp{sys.version_info.major}{sys.version_info.minor}"
HERE = sysconfig.get_platform().replace("-", "_").replace(".", "_")


def wheel(folder: Path, version: str, tag: str = f"{PYTHON}-{PYTHON}-{HERE}") -> Path:
    """A wheel of an empty package with that version."""
    path = folder / f"aevb_ext-{version}-{tag}.whl"
    about = f"aevb_ext-{version}.dist-info"
    files = {
        "aevb_ext/__init__.py": "",
        f"{about}/METADATA": f"Metadata-Version: 2.1\nName: aevb-ext\nVersion: {version}\n",
        f"{about}/WHEEL": f"Wheel-Version: 1.0\nGenerator: a test\nRoot-Is-Purelib: false\nTag: {tag}\n",
    }
    record = ""
    for name, text in files.items():
        digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
        record += f"{name},sha256={digest},{len(text)}\n"
    with zipfile.ZipFile(path, "w") as file:
        for name, text in {**files, f"{about}/RECORD": f"{record}{about}/RECORD,,\n"}.items():
            file.writestr(name, text)
    return path


def index(*arguments) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, TOOLS / "wheel_index.py", *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def download(page: Path, place: Path) -> list[str]:
    """The names of the files that pip takes from a page, and nothing but the page."""
    command = [sys.executable, "-m", "pip", "--isolated", "--disable-pip-version-check", "download", "-q", "--no-deps"]
    command += ["--no-index", "-f", str(page), "-d", str(place), "aevb-ext"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [path.name for path in place.iterdir()]


@pytest.fixture
def folder(tmp_path):
    if not any(metadata.distributions(name="pip")):  # to look for the module changes what distutils is
        pytest.skip("no pip")
    made = tmp_path / "wheels"
    made.mkdir()
    for torch in ("torch2.13.cpu", "torch2.14.cpu", "torch2.13.cu126"):
        wheel(made, f"0.1.0+{torch}")
    wheel(made, "0.1.0+torch2.13.cpu", f"cp38-cp38-{HERE}")
    wheel(made, "0.1.0.dev7+g0123abc.torch2.13.cpu")
    return made


@pytest.mark.parametrize(
    "page, version", [("torch-2.13-cpu", "torch2.13.cpu"), ("torch-2.13-cu126", "torch2.13.cu126")]
)
def test_pip_takes_the_release_for_its_python_from_the_page_of_a_torch(folder, tmp_path, page, version):
    assert index(folder).returncode == 0
    taken = download(folder / f"{page}.html", tmp_path / "taken")
    assert taken == [f"aevb_ext-0.1.0+{version}-{PYTHON}-{PYTHON}-{HERE}.whl"]


def test_pip_refuses_a_file_that_is_not_the_one_of_the_page(folder, tmp_path):
    index(folder)
    wheel(folder, "0.1.0+torch2.14.cpu").open("ab").write(b"more")
    with pytest.raises(AssertionError, match="DO NOT MATCH THE HASHES"):
        download(folder / "torch-2.14-cpu.html", tmp_path / "taken")


def test_the_wheels_may_lie_elsewhere(folder, tmp_path):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert index(folder, "--url", elsewhere.as_uri()).returncode == 0
    for path in folder.glob("*.whl"):
        path.rename(elsewhere / path.name)
    assert len(download(folder / "torch-2.14-cpu.html", tmp_path / "taken")) == 1


def test_the_first_page_leads_to_the_others(folder):
    index(folder)
    text = (folder / "index.html").read_text()
    assert all(f'<a href="{page.name}">' in text for page in folder.glob("torch-*.html"))


def test_a_wheel_of_no_torch_has_no_page(folder):
    wheel(folder, "0.1.0")
    done = index(folder)
    assert done.returncode == 2 and "expected a wheel of `make wheel`" in done.stderr
    assert not list(folder.glob("*.html"))


def test_what_is_built_is_what_pytorch_publishes():
    names = (
        "torch-2.13.0%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.13.1%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl",  # a later patch
        "torch-2.13.0%2Bcpu-cp310-cp310-manylinux_2_28_aarch64.whl",
        "torch-2.13.0%2Bcu126-cp314-cp314-manylinux_2_28_x86_64.whl",
        # Of those below none: free threads, an older torch, Windows, another accelerator, a pre-release.
        "torch-2.13.0%2Bcu126-cp314-cp314t-manylinux_2_28_x86_64.whl",
        "torch-2.6.0%2Bcpu-cp311-cp311-linux_x86_64.whl",
        "torch-2.13.0%2Bcpu-cp311-cp311-win_amd64.whl",
        "torch-2.13.0%2Brocm7.0-cp311-cp311-manylinux_2_28_x86_64.whl",
        "torch-2.14.0.dev20261101%2Bcpu-cp311-cp311-manylinux_2_28_x86_64.whl",
    )
    page = "".join(f'<a href="/whl/{name}#sha256=0">{name.replace("%2B", "+")}</a><br>\n' for name in names)
    program = f"import json, wheel_matrix; print(json.dumps(wheel_matrix.matrix([{page!r}])))"
    done = subprocess.run([sys.executable, "-c", program], cwd=TOOLS, capture_output=True, text=True, check=True)
    x86, arm = {"machine": "x86_64", "runner": "ubuntu-latest"}, {"machine": "aarch64", "runner": "ubuntu-24.04-arm"}
    cpu = {"accelerator": "cpu", "cuda": ""}
    assert json.loads(done.stdout) == [
        {"torch": "2.13.0+cpu", "python": "cp310", **cpu, **arm},
        {"torch": "2.13.1+cpu", "python": "cp311", **cpu, **x86},
        {"torch": "2.13.0+cu126", "python": "cp314", "accelerator": "cu126", "cuda": "12-6", **x86},
    ]
