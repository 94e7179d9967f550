"""Text of files: of plain text in this process if it is small, of everything else in a process with limits."""
