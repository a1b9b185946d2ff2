"""Steps: started, ended, and held back while a provider refuses."""
