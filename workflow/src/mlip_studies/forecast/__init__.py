"""What a command of the workflow will cost, before it runs: jobs, hours, memory, downloads, disk, wall time."""
