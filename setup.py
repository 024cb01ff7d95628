"""The compiled kernels for small systems; all else about the package is in setup.cfg."""

from glob import glob

from setuptools import Extension, setup

setup(
    ext_modules=[
        Extension(
            f"linode.kernels._{name}",
            sources=[f"linode/kernels/{name}.c"],
            depends=sorted(glob("linode/kernels/*.h")),
            extra_compile_args=["-std=c11", "-O3"],
            libraries=["m", "pthread"],
            py_limited_api=True,  # with `py_limited_api` of setup.cfg: one wheel for Python 3.10 and newer
            optional=True,  # where it cannot be built, the package is installed without it
        )
        for name in ("small", "wide")
    ]
)
