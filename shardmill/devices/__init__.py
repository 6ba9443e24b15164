"""CUDA devices of this machine: which there are, and leases that keep others off them. Imports no torch."""

from shardmill.devices.leases import LOCKS, Lease, lease
from shardmill.devices.spec import GPUField, GPUSpec
from shardmill.devices.visible import VISIBLE, Device, fitting_devices, visible_devices

__all__ = ["LOCKS", "VISIBLE", "Device", "GPUField", "GPUSpec", "Lease", "fitting_devices", "lease", "visible_devices"]
