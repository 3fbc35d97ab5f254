"""Commands: `minirft COMMAND` reads its flags, calls the room that does the work, and prints."""
