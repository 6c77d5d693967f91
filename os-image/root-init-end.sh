finish ok
