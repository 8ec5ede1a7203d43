inset walk
