"""Builds the package: compiles the repository's `proto/` into one file of descriptors.

The definitions stand beside `python/` in a clone and inside it in a source distribution, which
`sdist` sees to. What is compiled goes into the build folder only; the source tree stays as it is.

The package carries descriptors, not generated modules: those run only with a protobuf at least as
new as the compiler that made them, and an engine's environment has often an older one pinned.
"""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py
from setuptools.command.sdist import sdist

HERE = Path(__file__).resolve().parent
DESCRIPTORS = "terrace_v1.fds"


def definitions() -> Path:
    """The folder of the `.proto` files."""
    for folder in (HERE / "proto", HERE.parent / "proto"):
        if (folder / "terrace" / "v1" / "terrace.proto").is_file():
            return folder
    raise SystemExit(
        f"no proto/ in {HERE} or beside it: build from a clone of the repository, or from a source "
        "distribution"
    )


class BuildWithDescriptors(build_py):
    """As usual, and the descriptors into the built package."""

    def run(self) -> None:
        super().run()
        # An editable install is run from the source folder, and so needs them there.
        root = HERE if self.editable_mode else Path(self.build_lib)
        compile_descriptors(definitions(), root / "terrace_kv" / DESCRIPTORS)

    def get_output_mapping(self) -> "dict[str, str]":
        return super().get_output_mapping()

    def get_outputs(self, include_bytecode: bool = True) -> "list[str]":
        made = str(Path(self.build_lib) / "terrace_kv" / DESCRIPTORS)
        return [*super().get_outputs(include_bytecode), made]


class SdistWithProto(sdist):
    """As usual, and the definitions into the distribution."""

    def make_release_tree(self, base_dir: str, files: "list[str]") -> None:
        super().make_release_tree(base_dir, files)
        target = Path(base_dir) / "proto"
        if not target.exists():
            shutil.copytree(definitions(), target)


def compile_descriptors(folder: Path, out: Path) -> None:
    from grpc_tools import protoc

    sources = sorted(str(path.relative_to(folder)) for path in folder.rglob("*.proto"))
    out.parent.mkdir(parents=True, exist_ok=True)
    arguments = ["protoc", f"-I{folder}", f"--descriptor_set_out={out}", *sources]
    if protoc.main(arguments) != 0:
        raise SystemExit(f"protoc refused the definitions in {folder}")


setup(cmdclass={"build_py": BuildWithDescriptors, "sdist": SdistWithProto})
