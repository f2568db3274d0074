module masque.test/common

go 1.23
