"""Check the machine, the installation and the settings."""
