"""What the server's tests share. It reads nothing that the owner of a fork edits."""
