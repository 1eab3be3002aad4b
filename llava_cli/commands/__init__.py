"""The commands, one file each. Each is one walk through the rooms and decides nothing itself."""
