"""Running thousands of networks on one machine: devices, blocks of networks, and vmap with the batch axis last."""
