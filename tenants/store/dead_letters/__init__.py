"""Dead letters, and the alerts about them and other trouble."""
