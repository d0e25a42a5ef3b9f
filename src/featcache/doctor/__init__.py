"""Whether this machine, this installation and these settings can run the main job, and what to do where they can't."""
