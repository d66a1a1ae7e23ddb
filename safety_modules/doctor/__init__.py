"""Does the package keep its promises on this base, with these libraries, on this machine? One function a check."""
