-- uses: epoch
-- Milliseconds since 1970 on the clock that decides everything.
return NOW
