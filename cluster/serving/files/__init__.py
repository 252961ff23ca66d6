"""Files over HTTP: decoded and denoised in processes beside the replica."""
