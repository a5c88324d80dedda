# Its functions are compiled as they are.
