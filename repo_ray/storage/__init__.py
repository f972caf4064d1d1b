"""What survives the driver's machine: the run folder as objects on a storage service."""
