"""What is sealed: sessions and webhook secrets, and the rotation of the keys that seal them."""
