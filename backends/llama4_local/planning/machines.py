"""Machines that can be planned for by name."""

from __future__ import annotations

from dataclasses import dataclass

from llama4sdk.errors import InvalidRequest


@dataclass(frozen=True, slots=True)
class Machine:
    """Where a model is to run.

    Args:
        name: What it is called.
        memory: Bytes of its memory; None where only its owner knows.
        bandwidth: Bytes per second that its memory delivers; None where only its owner knows.
        source: Where the bandwidth comes from.
        reference: Whether the reference functions run there, which copy what they attend to, and not the kernels.
        link: Bytes per second that one gets from the others of its host; None where that depends on the host.
    """

    name: str
    memory: int | None
    bandwidth: int | None
    source: str
    reference: bool = False
    link: int | None = None


def _gpu(
    name: str,
    gigabytes: int,
    gigabytes_per_second: int,
    source: str = "NVIDIA's data sheet",
    *,
    nvlink: int | None = None,  # gigabytes per second in one direction: half of what the data sheet gives
) -> Machine:
    link = None if nvlink is None else nvlink * 10**9
    return Machine(name, gigabytes * 10**9, gigabytes_per_second * 10**9, source, link=link)


_ALL = (
    _gpu("H200", 141, 4300, "a copy on one, measured; NVIDIA's data sheet says 4.8 TB/s", nvlink=450),
    _gpu("H100", 80, 3350, "NVIDIA's data sheet, SXM", nvlink=450),
    _gpu("H100-PCIe", 80, 2000),
    _gpu("H100-NVL", 94, 3900),
    _gpu("A100-80GB", 80, 2039, "NVIDIA's data sheet, SXM", nvlink=300),
    _gpu("A100-40GB", 40, 1555, nvlink=300),
    _gpu("L40S", 48, 864),
    _gpu("RTX-6000-Ada", 48, 960),
    _gpu("RTX-5090", 32, 1792),
    _gpu("RTX-4090", 24, 1008),
    Machine("CPU", None, None, "not given", reference=True),
)
MACHINES = {machine.name.lower(): machine for machine in _ALL}
DEFAULT = "h200"


def machine_named(name: str) -> Machine:
    """Return a machine by its name, in any case.

    Raises:
        InvalidRequest: None has that name.
    """
    machine = MACHINES.get(name.lower())
    if machine is None:
        known = ", ".join(machine.name for machine in _ALL)
        raise InvalidRequest(
            f"No machine named {name[:80]!r}; known: {known}. For another, give memory and bandwidth, as in "
            "memory='48GB', bandwidth='1TB/s'."
        )
    return machine
