"""The kernel that notebooks run in: that of the Python that runs REALM, whatever Jupyter finds elsewhere.

Jupyter takes the first kernel called ``python3`` on its path, and ``JUPYTER_PATH`` and the user's own data folder stand
before the environment there (``JUPYTER_PREFER_ENV_PATH`` moves the folder alone): it may start another Python, without
the library or with another version of it, or one that was removed.
"""

from ipykernel.kernelspec import RESOURCES, get_kernel_dict
from jupyter_client.kernelspec import NATIVE_KERNEL_NAME, KernelSpec, KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from traitlets import default


class OwnKernelSpecs(KernelSpecManager):
    """Jupyter's kernels, of which ``python3`` is always this Python's. ``make lab`` names this class to JupyterLab."""

    def find_kernel_specs(self) -> dict[str, str]:
        """The kernels' folders by name."""
        return {**super().find_kernel_specs(), NATIVE_KERNEL_NAME: RESOURCES}

    def get_kernel_spec(self, kernel_name: str) -> KernelSpec:
        """The kernel of that name. Raises jupyter_client's NoSuchKernel for one that there is not."""
        if kernel_name == NATIVE_KERNEL_NAME:
            return KernelSpec(resource_dir=RESOURCES, **get_kernel_dict())
        return super().get_kernel_spec(kernel_name)


class OwnKernelManager(AsyncKernelManager):
    """Starts ``python3`` as :class:`OwnKernelSpecs` has it; for whatever takes Jupyter's ``kernel_manager_class``."""

    @default("kernel_spec_manager")
    def _own(self) -> KernelSpecManager:
        return OwnKernelSpecs(data_dir=self.data_dir)
