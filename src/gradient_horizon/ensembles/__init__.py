"""Thousands of networks on this machine: devices, blocks of networks, and vmap with the batch axis last."""
