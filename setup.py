"""The packages: those of kdjax/, and the example configs as `kdjax.configs`."""

from setuptools import find_packages, setup

setup(
    packages=[*find_packages(include=["kdjax*"]), "kdjax.configs"],
    package_dir={"kdjax.configs": "configs"},
)
