"""What this computer is and has: cores, CPU, memory, places for files, child processes."""
